"""Published figures beside predictions: what these rest on, and how accurate they are without it."""
