"""From any video to what a model says of the faces in it."""
