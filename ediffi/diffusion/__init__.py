"""eDiff-I itself: training noise, experts, guidance, paint-with-words, editing, super-resolution inputs."""
