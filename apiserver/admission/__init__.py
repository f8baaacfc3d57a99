"""What may be added to an object, or refused, before it is stored. Start in apiserver/admission/chain.py."""
