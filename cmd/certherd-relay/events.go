package main

import (
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
)

// podOptions name the pod that the relay runs in, and how to reach the API server.
type podOptions struct {
	kubeconfig, namespace, name, uid string
}

// podFromEnvironment is what the manifests give by the downward API.
func podFromEnvironment() podOptions {
	return podOptions{namespace: os.Getenv("POD_NAMESPACE"), name: os.Getenv("POD_NAME"), uid: os.Getenv("POD_UID")}
}

// events returns what makes Warning Events on the relay's pod, and what ends it.
// Without a cluster or a pod there are none, as the relay works without: the log and
// the metrics say the same.
func (o podOptions) events(log *zap.Logger) (tell func(reason, message string), stop func(), err error) {
	none := func() {}
	if o.name == "" || o.namespace == "" {
		log.Info("there will be no Events: POD_NAME and POD_NAMESPACE do not name the relay's pod")
		return nil, none, nil
	}
	var config *rest.Config
	if o.kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
			return nil, none, fmt.Errorf("--kubeconfig: %w", err)
		}
	} else if config, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		log.Info("there will be no Events: the relay does not run in a cluster")
		return nil, none, nil
	} else if err != nil {
		// A pod without a token, as one whose automountServiceAccountToken is false.
		log.Warn("there will be no Events", zap.Error(err))
		return nil, none, nil
	}
	client, err := typedcorev1.NewForConfig(config)
	if err != nil {
		return nil, none, fmt.Errorf("the API server's client: %w", err)
	}
	// The recorder joins equal ones, and limits their rate.
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events(o.namespace)})
	recorder := broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "certherd-relay", Host: o.name})
	pod := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: o.namespace, Name: o.name, UID: types.UID(o.uid)}
	return func(reason, message string) { recorder.Event(pod, corev1.EventTypeWarning, reason, message) }, broadcaster.Shutdown, nil
}
