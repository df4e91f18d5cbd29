package reelway

type providersCmd struct {
	Reconcile reconcileCmd `cmd:"" help:"Match a provider's invoice or usage export with the tasks that we know. Exit code 1 when something differs."`
	Test      certifyCmd   `cmd:"" help:"Certify an adapter, built in or described in a file, by the suite that every adapter passes. Exit code 1 when a check fails."`
}
