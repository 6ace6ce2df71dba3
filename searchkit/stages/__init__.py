"""The stages: each a frozen dataclass whose call turns an artifact into its child."""
