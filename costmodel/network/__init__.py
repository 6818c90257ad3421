"""How long messages take between devices: paths, collectives, the expert all-to-all, in closed form."""
