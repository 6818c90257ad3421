"""Many evaluations for one question: published figures held against predictions, chains of changes."""
