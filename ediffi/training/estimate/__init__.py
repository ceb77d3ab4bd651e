"""What a recipe takes before it is run: parameters, memory, time."""
