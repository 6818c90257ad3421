"""The page on DeepSeek-V3 over all shipped devices."""
