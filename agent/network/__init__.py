"""Services on this node: nftables rules computed from Services and EndpointSlices."""
