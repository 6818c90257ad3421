"""Programs that make this repository's own pages, figures and fits, each beside what it makes. Not in the wheel."""
