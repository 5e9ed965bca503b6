"""Laws, each on the smallest instance, against something too simple to be wrong."""
