"""P-MODEL DATA: concepts, features, tasks and the heads fitted to them."""
