"""Files, locks, URLs, images and processes: what every floor above stands on."""
