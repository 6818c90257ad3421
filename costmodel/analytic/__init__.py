"""The closed-form engine: a training step, prefill and decode as array arithmetic over the operators' times."""
