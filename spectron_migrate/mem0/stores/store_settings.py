"""The keys under `vector_store.config` that Mem0 for Python and Mem0 for TypeScript know, store by store."""

from __future__ import annotations

_COMMON = ("collection_name", "client", "instance", "embedding_model_dims", "dimension")
_OF_STORE = {
    "azure_ai_search": "service_name api_key compression_type use_float16 hybrid_search vector_filter_mode",
    "azure_mysql": "host port user password database use_azure_credential ssl_ca ssl_disabled minconn maxconn max_conn"
    " connection_pool",
    "baidu": "endpoint account api_key database_name table_name metric_type",
    "cassandra": "contact_points port username password keyspace secure_connect_bundle protocol_version"
    " load_balancing_policy local_data_center driver",
    "chroma": "path host port api_key tenant database ssl url",
    "databricks": "workspace_url access_token client_id client_secret azure_client_id azure_client_secret endpoint_name"
    " catalog schema table_name index_type embedding_model_endpoint_name embedding_dimension endpoint_type"
    " pipeline_type warehouse_name query_type host http_path sync_poll_interval_ms sync_timeout_ms sql_client"
    " http_client",
    "elasticsearch": "host port user password cloud_id api_key verify_certs ca_certs use_ssl auto_create_index"
    " custom_search_query headers username",
    "faiss": "path distance_strategy normalize_l2",
    "langchain": "",
    "memory": "db_path",
    "milvus": "url token metric_type db_name",
    "mongodb": "db_name mongo_uri url",
    "neptune": "endpoint graph_identifier",
    "opensearch": "host port user password api_key verify_certs use_ssl http_auth connection_class pool_maxsize"
    " auto_refresh",
    "oracledb": "connection_params use_connection_pool distance_metric do_create_index index_type index_name"
    " index_parameters index_accuracy",
    "pgvector": "dbname user password host port diskann hnsw minconn maxconn sslmode ssl connection_string"
    " connection_pool",
    "pinecone": "api_key environment serverless_config pod_config hybrid_search metric batch_size extra_params"
    " namespace",
    "qdrant": "host port path url api_key on_disk https timeout prefer_grpc grpc_port",
    "redis": "redis_url username password",
    "s3_vectors": "vector_bucket_name distance_metric region_name region client_config",
    "supabase": "connection_string index_method index_measure supabase_url supabase_key table_name"
    " embedding_column_name metadata_column_name",
    "turbopuffer": "api_key region distance_metric batch_size extra_params",
    "upstash_vector": "url token enable_embeddings",
    "valkey": "valkey_url timezone index_type hnsw_m hnsw_ef_construction hnsw_ef_runtime cluster_mode",
    "vectorize": "api_key index_name account_id",
    "vertex_ai_vector_search": "project_id project_number region endpoint_id index_id deployment_index_id"
    " credentials_path service_account_json vector_search_api_endpoint",
    "weaviate": "cluster_url auth_client_secret additional_headers api_key",
}

SETTINGS = {provider: (*_COMMON, *keys.split()) for provider, keys in _OF_STORE.items()}
"""Provider -> its keys, in Python's spelling."""

PLACES = (
    *("path", "url", "host", "endpoint", "db_path", "mongo_uri", "redis_url", "valkey_url", "cluster_url", "cloud_id"),
    *("connection_string", "supabase_url", "workspace_url", "service_name", "vector_bucket_name", "account_id"),
)
"""Keys that say where a store is; each store has one of them."""

NAMES = ("collection_name", "index_name", "table_name", "dbname", "database", "database_name", "db_name", "tenant")
"""Keys that say which part of a store is meant."""
