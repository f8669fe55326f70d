"""What a model is worth: out of fold, by its maps, on whole scans."""
