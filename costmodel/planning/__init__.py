"""Requirements in, a deployment out: servers for a load, a training run, what runs on a machine, what starts it."""
