"""Keep each agent on a running primary: take signals, decide, and reconcile EC2 with the rows."""
