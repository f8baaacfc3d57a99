"""Objects as clients see them: metadata, quantities, selectors, patches, schemas."""
