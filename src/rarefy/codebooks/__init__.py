"""What the steps that make codebooks share: what layers see and answer, before and after."""
