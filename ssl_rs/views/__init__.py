"""Views of a crop: made on the device, without gradient, each with its geometry."""
