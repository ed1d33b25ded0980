"""Charts over layers, of any measure."""
