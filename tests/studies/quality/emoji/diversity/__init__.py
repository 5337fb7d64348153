"""More variety in a batch: "06 More diverse batch" beside free methods of the literature."""
