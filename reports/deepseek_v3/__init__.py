"""The page of DeepSeek-V3."""
