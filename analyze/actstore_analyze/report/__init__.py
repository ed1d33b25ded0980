"""The report: one self-contained page about some stores."""
