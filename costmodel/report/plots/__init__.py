"""One module for each kind of figure. Each draws what a result or a sweep holds, and returns the same as rows."""
