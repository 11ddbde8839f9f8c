"""Image jobs: taken from the store, given to whoever makes the images, and brought to one end each."""
