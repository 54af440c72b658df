"""What a person sees while a run or a study works: a table that stays in place, or a few lines."""
