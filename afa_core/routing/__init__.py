"""What a fusion decided: the record of attention maps, its wire format and its panels."""
