package proposal

import "k8s.io/client-go/rest"

// SharedCluster is the control plane of the tests, with the custom resource.
func SharedCluster() (*rest.Config, error) { return rest.CopyConfig(shared.cfg), shared.err }
