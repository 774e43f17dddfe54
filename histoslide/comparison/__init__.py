"""Where two heatmaps differ, cell by cell; whether a slide is the one that was scored."""
