package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

// provisionerName is what a StorageClass names to have its volumes made here.
const provisionerName = "sanfran.dev/local-path"

const (
	annotationProvisioner   = "volume.kubernetes.io/storage-provisioner"
	annotationSelectedNode  = "volume.kubernetes.io/selected-node"
	annotationProvisionedBy = "pv.kubernetes.io/provisioned-by"
)

// provisioner makes a folder of the machine a PersistentVolume for every claim
// whose pod has been given a node, and deletes folder and volume once the
// claim is gone. All nodes share the machine's file system, so one process
// serves them all; a volume is tied to its node all the same, because a real
// local volume is.
type provisioner struct {
	client kubernetes.Interface
	root   string // folder that holds one folder per volume
	log    *slog.Logger

	claims  cache.SharedIndexInformer
	volumes cache.SharedIndexInformer
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:           "local-provisioner",
		Short:         "make folders of this machine PersistentVolumes",
		SilenceUsage:  true,
		SilenceErrors: false,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
			}
			if err := os.MkdirAll(root, 0o711); err != nil {
				return fmt.Errorf("folder for volumes: %w", err)
			}
			return newProvisioner(client, root).run(command.Context())
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&root, "root", "", "folder that holds one folder per volume")
	return command
}

func newProvisioner(client kubernetes.Interface, root string) *provisioner {
	factory := informers.NewSharedInformerFactory(client, 0)
	return &provisioner{
		client:  client,
		root:    root,
		log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
		claims:  factory.Core().V1().PersistentVolumeClaims().Informer(),
		volumes: factory.Core().V1().PersistentVolumes().Informer(),
	}
}

// run serves claims and volumes until ctx ends.
func (p *provisioner) run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		handle   func(context.Context, any) error
	}{
		{p.claims, func(ctx context.Context, o any) error { return p.provision(ctx, o.(*corev1.PersistentVolumeClaim)) }},
		{p.volumes, func(ctx context.Context, o any) error { return p.reclaim(ctx, o.(*corev1.PersistentVolume)) }},
	} {
		queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 30*time.Second))
		add := func(object any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
				queue.Add(key)
			}
		}
		if _, err := kind.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    add,
			UpdateFunc: func(_, object any) { add(object) },
		}); err != nil {
			return err
		}
		group.Go(func() { kind.informer.Run(ctx.Done()) })
		group.Go(func() { <-ctx.Done(); queue.ShutDown() })
		group.Go(func() {
			for p.next(ctx, queue, kind.informer.GetStore(), kind.handle) {
			}
		})
	}
	<-ctx.Done()
	return nil
}

// next handles one key; false once the queue has been shut down.
func (p *provisioner) next(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], store cache.Store, handle func(context.Context, any) error) bool {
	key, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(key)
	object, exists, err := store.GetByKey(key)
	if err == nil && exists {
		err = handle(ctx, object)
	}
	if err != nil {
		p.log.Error("will try again", "object", key, "error", err)
		queue.AddRateLimited(key)
		return true
	}
	queue.Forget(key)
	return true
}

// provision makes the volume of a claim that is ours, unbound and has a node.
func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	node := claim.Annotations[annotationSelectedNode]
	if claim.Annotations[annotationProvisioner] != provisionerName || claim.Spec.VolumeName != "" ||
		claim.DeletionTimestamp != nil || node == "" || claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("storage class %s: %w", *claim.Spec.StorageClassName, err)
	}
	if mode := claim.Spec.VolumeMode; mode != nil && *mode != corev1.PersistentVolumeFilesystem {
		return fmt.Errorf("claim asks for volumeMode %s; only Filesystem can be made from a folder", *mode)
	}
	volume := volumeFor(claim, node, class.ReclaimPolicy, p.root)
	path := volume.Spec.Local.Path
	// A pod's user is not known here: everybody may write, as with any local
	// path provisioner; the folder above lets nobody list it.
	if err := os.MkdirAll(path, 0o777); err != nil {
		return fmt.Errorf("folder of volume %s: %w", volume.Name, err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return fmt.Errorf("folder of volume %s: %w", volume.Name, err)
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", volume.Name, err)
	}
	p.log.Info("made a volume", "volume", volume.Name, "claim", claim.Namespace+"/"+claim.Name, "node", node)
	return nil
}

// reclaim deletes a volume of ours whose claim is gone, with what it held.
func (p *provisioner) reclaim(ctx context.Context, volume *corev1.PersistentVolume) error {
	if volume.Annotations[annotationProvisionedBy] != provisionerName ||
		volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	// Only ever below the root, whatever the object says.
	if err := os.RemoveAll(filepath.Join(p.root, filepath.Base(volume.Name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder of volume %s: %w", volume.Name, err)
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &volume.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("volume %s: %w", volume.Name, err)
	}
	p.log.Info("deleted a volume", "volume", volume.Name)
	return nil
}

// volumeFor is the PersistentVolume that satisfies claim on node. Its name
// comes from the claim's UID, so that making it twice is making it once.
func volumeFor(claim *corev1.PersistentVolumeClaim, node string, policy *corev1.PersistentVolumeReclaimPolicy, root string) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	reclaim := corev1.PersistentVolumeReclaimDelete
	if policy != nil {
		reclaim = *policy
	}
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{annotationProvisionedBy: provisionerName},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: reclaim,
			StorageClassName:              *claim.Spec.StorageClassName,
			VolumeMode:                    &mode,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(root, name)},
			},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
}
