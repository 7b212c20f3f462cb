"""What Weftline needs from outside, in its own words. Adapters fulfil these; features call them."""
