"""The FlatBuffer writer: schema, builder, layouts, and one module per family of lowerings."""
