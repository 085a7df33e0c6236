"""Turn pricing reports of two sources into one clean, gap-filled series, whatever their order."""
