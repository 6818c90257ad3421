"""How long one operator takes on one device: the hierarchical roofline with tiles and waves, and what corrects it."""
