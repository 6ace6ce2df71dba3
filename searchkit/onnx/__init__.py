"""The exported file: writing, shrinking, quantizing, running, comparing and measuring it."""
