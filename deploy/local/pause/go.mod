module sanfran.dev/deploy/local/pause

go 1.26.0
