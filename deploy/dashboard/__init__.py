"""The page that shows a running pipeline, and the JSON it is made of."""
