package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"sanfran.dev/internal/identity"
	"sanfran.dev/internal/process"
	"sanfran.dev/internal/rpc"
	"sanfran.dev/provider"
	"sanfran.dev/warmpool"
)

// tokenAudience is what agents' and gateways' tokens must be for.
const tokenAudience = "sanfran"

type controlPlaneListeners struct{ grpc, kubelet, health net.Listener }

func (o *controlPlaneOptions) listen(ctx context.Context) (l controlPlaneListeners, err error) {
	defer func() {
		if err != nil {
			for _, open := range []net.Listener{l.grpc, l.kubelet} {
				if open != nil {
					err = errors.Join(err, open.Close())
				}
			}
		}
	}()
	if l.grpc, err = listen(ctx, "--grpc-address", o.grpcAddress); err != nil {
		return l, err
	}
	if l.kubelet, err = listen(ctx, "--kubelet-address", o.kubeletAddress); err != nil {
		return l, err
	}
	l.health, err = listen(ctx, "--health-address", o.healthAddress)
	return l, err
}

type controlPlaneParts struct {
	pool   *warmpool.Pool
	groups []process.Group
}

// assemble reaches Kubernetes, takes a generation, opens the books and makes
// everything that serves. It leaves nothing open when it fails.
func (o *controlPlaneOptions) assemble(ctx context.Context, log *slog.Logger, listeners controlPlaneListeners, health *process.Health) (_ *controlPlaneParts, err error) {
	cluster, err := provider.Connect(ctx, o.cluster)
	if err != nil {
		return nil, err
	}
	authority, err := identity.OpenAuthority(ctx, cluster.CAStore(o.name+"-ca", o.name+"-ca", o.statefulSet))
	if err != nil {
		return nil, err
	}
	generation, err := cluster.NextGeneration(ctx)
	if err != nil {
		return nil, err
	}
	pool, err := warmpool.Open(warmpool.Config{
		DataDir: o.cluster.DataDir, Generation: generation, MaxBundleBytes: o.maxBundleBytes, Sizing: o.sizing, Log: log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, pool.Close())
		}
	}()
	virtual, err := provider.New(cluster, o.node, pool, pool, pool, listeners.kubelet)
	if err != nil {
		return nil, err
	}
	server := rpc.NewServer(authority.ServerTLS(o.serviceNames...), rpc.Policy{
		"sanfran.identity.v1.IdentityService": rpc.Anyone(),
		"sanfran.agent.v1.AgentService":       rpc.Roles(identity.RoleAgent),
		"sanfran.streams.v1.StreamService":    rpc.Roles(identity.RoleAgent),
		"sanfran.routes.v1.RouteService":      rpc.Roles(identity.RoleAgent, identity.RoleGateway),
	}, log)
	roles := map[identity.ServiceAccount]identity.Role{
		{Namespace: o.cluster.Namespace, Name: o.agentAccount}:   identity.RoleAgent,
		{Namespace: o.cluster.Namespace, Name: o.gatewayAccount}: identity.RoleGateway,
	}
	identity.NewServer(authority, cluster.TokenReviewer(tokenAudience), roles, log).Register(server)
	log.Info("the control plane is assembled", "generation", generation)
	health.Check("start", pool.Check)
	return &controlPlaneParts{pool: pool, groups: []process.Group{
		{Name: "books", Parts: []process.Part{{Name: "warm pool", Run: pool.Run}}},
		{Name: "virtual node", Parts: []process.Part{{Name: "provider", Run: virtual.Run}}},
		{Name: "agents", Parts: []process.Part{{Name: "grpc", Run: func(ctx context.Context) error {
			pool.Server(ctx).Register(server)
			return rpc.Serve(ctx, server, listeners.grpc, 5*time.Second)
		}}}},
	}}, nil
}
