"""Where tissue is. A method is an object with a name that maps an overview to a mask."""
