"""The driver's side of the actors: handles, load balancing, supervision and weight broadcast."""
