"""Images and captions as people have them, made into shards in img2dataset's layout."""
