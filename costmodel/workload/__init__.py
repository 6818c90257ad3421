"""What is to be computed: architectures, layouts, operators with their work, schedules, the memory ledger. No times."""
