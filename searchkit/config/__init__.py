"""The configuration of a run: each option is declared once, as a field of a frozen dataclass."""
