"""From bytes to the core and back: routes, validation, the OpenAPI document, the pages."""
