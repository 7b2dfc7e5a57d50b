"""Who asks, and how much they may. It knows no Starlette: `http` hands it what a request says."""
