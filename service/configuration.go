package service

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/certherd/certherd/config"
)

// configuration is what is in force, and what is wrong with a newer one.
type configuration struct {
	config.Config
	// object is the ConfigMap as last seen, nil when there is none; taken is when
	// the configuration in force was taken over.
	object *corev1.ConfigMap
	taken  time.Time
	// problem is why the newest ConfigMap is not in force, nil when it is.
	problem error
}

// byName selects one object.
func byName(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}

// read is the configuration that a ConfigMap holds. None, and one without data,
// is the default.
func read(cm *corev1.ConfigMap) (config.Config, error) {
	if cm == nil || len(cm.Data)+len(cm.BinaryData) == 0 {
		return config.Default(), nil
	}
	for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
		if k != config.ConfigMapKey {
			return config.Config{}, fmt.Errorf("there is a key %s: only %s is read, take the other one out", k, config.ConfigMapKey)
		}
	}
	if len(cm.BinaryData) > 0 {
		return config.Config{}, errors.New("there is binaryData: the configuration is text, and belongs to data")
	}
	return config.Parse([]byte(cm.Data[config.ConfigMapKey]))
}

// taking serialises take.
var taking sync.Mutex

// take takes a ConfigMap over, nil for none. A bad one changes nothing but what
// is said about it; where there was none before, the default is in force.
func (s *Service) take(cm *corev1.ConfigMap) {
	taking.Lock()
	defer taking.Unlock()
	old := s.config.Load()
	if old != nil && cm != nil && old.object != nil && cm.UID == old.object.UID && cm.ResourceVersion == old.object.ResourceVersion {
		return
	}
	version := ""
	if cm != nil {
		version = cm.ResourceVersion
	}
	next := &configuration{object: cm, taken: time.Now()}
	c, err := read(cm)
	if err != nil {
		next.Config, next.problem = config.Default(), err
		if old != nil {
			next.Config, next.taken = old.Config, old.taken
		}
		s.log.Error("configuration refused", zap.String("resourceVersion", version), zap.Error(err))
	} else {
		next.Config = c
		s.log.Info("configuration taken over", zap.String("resourceVersion", version), zap.Bool("default", cm == nil || len(cm.Data) == 0),
			zap.String("gc", string(c.GC.Mode)), zap.String("consolidate", string(c.Consolidate.Mode)))
	}
	s.config.Store(next)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// sayProblem is a sentence for an Event, whose message is short.
func sayProblem(err error) string {
	text := "The configuration was refused, and the last good one stays in force: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	return cut(text, 1000)
}

// cut shortens a text to at most n bytes, at a rune.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n-3], "") + "..."
}
