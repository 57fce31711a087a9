"""From settings to finished run folders: claim, restore, train, evaluate, write the results."""
