package consolidate_test

import (
	"context"
	"testing"
	"time"
)

const crd = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: consolidations.certherd.dev}
spec:
  group: certherd.dev
  scope: Namespaced
  names: {kind: Consolidation, plural: consolidations, singular: consolidation, listKind: ConsolidationList}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {
      spec: {type: object, x-kubernetes-preserve-unknown-fields: true},
      status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
`

func (w *world) install(t *testing.T) {
	t.Helper()
	must(t, w.c.Apply(context.Background(), crd, nil))
	time.Sleep(3 * time.Second)
}
