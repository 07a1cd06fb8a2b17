"""Networks that outlive the test that brought them up, because a person wants to look inside."""
