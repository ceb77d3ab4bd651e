"""Models as folders and on the Hub: finding, downloading, describing and publishing them."""
