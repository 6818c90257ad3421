"""The event engine: the operators of the closed form as tasks on streams, on SimPy's clock."""
